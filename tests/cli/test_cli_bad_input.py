"""Everything that a person can get wrong at the command line: one message that mends it, no traceback, exit code 2."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from helpers.command_line import ALL_METHODS, DIGITS, DIGITS_ALONE, OWN_CODE, RECIPE, TEACHER, done, refused, understudy
from helpers.images import coloured_jpeg, write_parquet, write_tree
from understudy.cli.app import main
from understudy.models import create_model, save_student
from understudy.report import read_results
from understudy.utils.errors import UserError

PETS = ("--student", "cifar:resnet8", "--epochs", 1)
PETS_ALONE = (*PETS, "--method", "alone")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "x"
    pets = write_tree(folder.parent / "pets", {"cat": 6, "dog": 6})
    done("train", *PETS_ALONE, "--data", pets, "--out", folder)
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["train", "digits/demo", "method.temprature=2"], "method.temprature unknown; did you mean temperature?"),
        (["train", "digits/demo", "nonsense=1"], "nonsense unknown; there are: accumulate, "),
        (["train", "digits/dmo"], "there is no recipe 'digits/dmo'; did you mean digits/demo?"),
        (["train", "my.yaml"], "there is no recipe file my.yaml"),
        (["train", "digits/demo", "digits/base"], "one recipe at a time, got digits/demo, digits/base"),
        (["train", *PETS], "still needed: --data FOLDER (or a recipe;"),
        (["train", "--data", "digits"], "still needed: --student timm:NAME (or a recipe;"),
        (["train", *DIGITS, "--method", "kd"], "kd: there is no teacher to learn from; give --teacher MODEL"),
        (["train", *DIGITS, *TEACHER, "--method", "kdd"], "method 'kdd' is unknown; did you mean kd?"),
        (["train", *DIGITS, *TEACHER, "--method", "x"], f"'x' is unknown; there are: {ALL_METHODS}"),
        (["train", *DIGITS, *TEACHER, "--update", "dott"], "update 'dott' is unknown; did you mean dot?"),
        (["train", *DIGITS_ALONE, "--epochs", "0"], "--epochs input should be greater than or equal to 1, got 0"),
        (["train", *DIGITS_ALONE, "--epochs", "many"], "Invalid value for '--epochs'"),
        (["train", *DIGITS_ALONE, "--seeds", "x"], "--seeds 'x': write how many, such as 3, or which, such as 0,1,2"),
        (["train", *DIGITS_ALONE, "--bogus"], "No such option: --bogus"),
        (["train", *DIGITS_ALONE, "device=tpu"], "device must be auto, cpu, cuda, cuda:N (such as cuda:1) or mps"),
        (
            ["train", *DIGITS, *TEACHER, "--method", "kd", "--update", "dot", "update.delta=0.2"],
            "update.delta 0.2 with momentum 0.9 gives 1.1; momentum + |delta| must stay below 1",
        ),
        (["train", "--student", "cifar:resnet8", "--data", "gone"], "--data: there is nothing at gone"),
        (["train", "--student", "cifar:resnet8", "--data", "digit"], "nothing at digit; did you mean digits?"),
        (["train", "--student", "resnet18", "--data", "digits"], "mean timm:resnet18 or torchvision:resnet18 or cifar"),
        (["train", "--student", "timm:resnet180", "--data", "digits"], "timm has no model 'resnet180'; did you mean"),
        (["train", "--student", "cifar:zzz", "--data", "digits"], "of cifar are: "),
        (["check", "--student", "gone:net", "--data", "digits", "--method", "alone"], "cannot import gone"),
        (["train", *DIGITS_ALONE, "schedule.warmup_epochs=5"], "a warm-up of 5 epochs leaves nothing of a run of 1"),
        (["compare", *DIGITS, *TEACHER, "--rows", "alone,kdd"], "row 'kdd': method 'kdd' is unknown; did you mean kd?"),
        (["compare", *DIGITS, *TEACHER, "--rows", "alone,dot"], "row 'dot': dot needs something to distil"),
        (["compare", *DIGITS, *TEACHER, "--rows", "kd,kd"], "rows names 'kd' twice"),
        (["compare", *DIGITS], "There is no teacher: give --teacher MODEL"),
        (["evaluate", "gone"], "gone is no run folder (no recipe.yaml and environment.json in it)"),
        (["report", "gone"], "gone is no run folder"),
        (["export", "gone", "--onnx", "x.onnx"], "gone is no run folder"),
        (["export", "gone"], "Missing option '--onnx'"),
        (["methods", "kdd"], "method 'kdd' is unknown; did you mean kd?"),
        (["bogus"], "No such command 'bogus'"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_are_refused(words: list[str], text: str) -> None:
    assert text in refused(*words)


def test_debug_shows_the_traceback_all_the_same() -> None:
    with pytest.raises(UserError, match="there is no recipe"):
        main(["train", "digits/dmo", "--debug"])


def test_several_problems_come_in_one_message() -> None:
    message = refused("train", "digits/demo", "method.temprature=2", "update.name=dot", "update.delta=0.2")
    assert message.startswith("recipe digits/demo, 2 problems")


@pytest.mark.parametrize("side", ["student_tap", "teacher_tap"])
def test_an_unknown_tap_gets_the_nearest_name_and_the_list(side: str) -> None:
    message = refused("check", *DIGITS, *TEACHER, f"method={{name: projector, {side}: embeding}}")
    assert "has nothing to tap at 'embeding'; did you mean embedding? it offers: embedding, stages.0, " in message


def test_an_unknown_tap_is_refused_before_the_teacher_is_trained() -> None:
    method = "method={name: projector, teacher_tap: layer9}"
    teacher = ("--teacher", "cifar:resnet8", "--train-teacher", 1, "--allow-weak-teacher")
    assert "has nothing to tap at 'layer9'" in refused("train", *DIGITS, *teacher, method, "--out", "x")
    assert not Path("x/teacher").exists()


@pytest.mark.parametrize("method", ["kd", "dkd", "dist", "projector"])
def test_class_counts_that_differ_are_refused_where_the_logits_are_read(method: str) -> None:
    Path("front_seven.py").write_text(OWN_CODE)
    words = ("train", *DIGITS, "--teacher", "front_seven:seven", "--allow-weak-teacher", "--method", method)
    message = refused(*words, "--out", "x")
    assert f"method '{method}' reads the teacher's logits, but the teacher has 7 classes and the student 10" in message
    assert "take a feature method, or fine-tune the teacher on this data" in message


def test_class_counts_may_differ_under_a_method_of_features_alone() -> None:
    Path("front_features.py").write_text(OWN_CODE)
    method = "method={name: projector, kl_weight: 0}"
    done("train", *DIGITS, "--teacher", "front_features:seven", "--allow-weak-teacher", method, "--out", "x")
    found = read_results(Path("x"))
    assert found.teacher is not None
    assert found.teacher.val is None  # seven classes cannot be scored on ten


def test_a_teacher_at_chance_level_stops_the_run_unless_allowed() -> None:
    words = ("check", *DIGITS, "--teacher", "cifar:resnet8", "--method", "kd")
    message = refused(*words)
    assert re.search(r"teacher cifar:resnet8 scores \d+\.\d % on 10 classes: no better than chance", message)
    assert "Its weights are random" in message
    assert "--allow-weak-teacher" in message
    done(*words, "--allow-weak-teacher")


def test_the_advice_for_a_weak_teacher_can_be_followed_in_the_same_folder() -> None:
    words = ("train", *DIGITS, "--teacher", "cifar:resnet8", "--method", "kd", "--out", "x")
    assert "--allow-weak-teacher" in refused(*words)
    done(*words, "--allow-weak-teacher")


def test_labels_outside_the_range_are_named() -> None:
    write_parquet(Path("pets/train.parquet"), [0, 1, 1, 0])
    write_parquet(Path("pets/val.parquet"), [0, 7])
    message = refused("train", *PETS_ALONE, "--data", "pets")
    assert "val, 'label': label 7 of row 1 is outside 0..1 (2 classes; 1 such rows)" in message


def test_a_parquet_without_the_columns_says_which_there_are() -> None:
    Path("pets").mkdir()
    pq.write_table(pa.table({"img": [coloured_jpeg(0, 0)], "fine": [0]}), "pets/train.parquet")
    message = refused("train", *PETS_ALONE, "--data", "pets")
    assert "has no column 'label'; it has: img, fine; set data.label_column" in message
    message = refused("train", *PETS_ALONE, "--data", "pets", "data.image_column=img")
    assert "has no column 'label'; it has: img, fine; set data.label_column" in message


def test_an_empty_class_folder_is_named() -> None:
    write_tree(Path("pets"), {"cat": 5, "dog": 0})
    assert "1 class folder holds no image: pets/dog; put images there" in refused(
        "train", *PETS_ALONE, "--data", "pets"
    )


def test_files_that_are_no_images_are_named_and_skipped_or_refused() -> None:
    write_tree(Path("pets"), {"cat": 6, "dog": 6})
    Path("pets/cat/notes.txt").write_text("a cat")
    Path("pets/dog/broken.jpg").write_bytes(b"\xff\xd8\xffjunk")
    sentence = "2 files are no images: cat/notes.txt, dog/broken.jpg"
    assert sentence in done("check", *PETS_ALONE, "--data", "pets")
    message = refused("check", *PETS_ALONE, "--data", "pets", "data.on_bad_image=stop")
    assert f"{sentence}; take them away, or leave them out with data.on_bad_image: skip" in message


def test_a_checkpoint_of_another_architecture_is_refused_by_its_keys() -> None:
    torch.save({"backbone.weight": torch.zeros(3)}, "other.pt")
    message = refused("train", *DIGITS, *TEACHER, "--teacher-weights", "other.pt", "--method", "kd")
    assert "weights 'other.pt' do not fit cifar:resnet8: 56 missing (conv1.weight, bn1.weight, " in message
    assert "1 unexpected (backbone.weight). Are they of another architecture?" in message


@pytest.mark.parametrize("option", ["--teacher-weights", "--student-weights"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("gone.pt", "weights 'gone.pt': there is no such file; give pretrained, none or a file"),
        ("code.pt", "refused, since it holds more than tensors (torch.nn.modules.linear.Linear)"),
        ("junk.safetensors", "weights 'junk.safetensors': damaged, or no safetensors file"),
        ("notes.txt", ".txt is no kind of weights file"),
        ("folder", "weights 'folder': the folder has none of model.safetensors, "),
    ],
)
def test_weights_that_cannot_be_read_are_refused(option: str, file: str, text: str) -> None:
    torch.save(nn.Linear(2, 2), "code.pt")
    Path("junk.safetensors").write_bytes(b"junk")
    Path("notes.txt").write_text("x")
    Path("folder").mkdir()
    assert text in refused("train", *DIGITS, *TEACHER, option, file, "--method", "kd")


def test_a_teacher_of_other_classes_may_be_fine_tuned_as_the_messages_advise() -> None:
    save_student("five", create_model("cifar:resnet8", num_classes=5, weights="none"))
    words = ("--teacher", "cifar:resnet8", "--teacher-weights", "five", "--allow-weak-teacher", "--method", "kd")
    message = refused("train", *DIGITS, *words, "--out", "x")
    assert "fc.weight: file 5x64, model 10x64" in message
    assert "new_head" not in message  # no command has such an option
    done("train", *DIGITS, *words, "--train-teacher", 1, "--out", "x")


def test_a_student_may_start_from_weights_of_other_classes() -> None:
    save_student("five", create_model("cifar:resnet8", num_classes=5, weights="none", kwargs={"width": 0.25}))
    done("train", *DIGITS_ALONE, "--student-weights", "five", "--out", "x")
    assert read_results(Path("x")).rows[0].student.starts_from == "five"


@pytest.mark.parametrize("batch_size", [1, 51])  # 256 images: five batches of 51 and one of 1
def test_a_batch_of_one_with_a_batch_normalised_projector_is_refused(batch_size: int) -> None:
    words = ("train", *DIGITS, *TEACHER, "--method", "projector", f"data.batch_size={batch_size}")
    message = refused(*words)
    assert "method 'projector' needs at least 2 images in every batch, but the smallest one here has 1" in message
    assert "set data.drop_last=true or another data.batch_size" in message


def test_one_class_is_refused() -> None:
    write_tree(Path("pets"), {"cat": 6})
    message = refused("train", *PETS, *TEACHER, "--data", "pets", "--method", "kd")
    assert "pets has one class, 'cat'; there is nothing to tell apart" in message


def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "torch finds no CUDA device here; set device=cpu" in refused("train", *DIGITS_ALONE, "device=cuda")


def test_a_finished_run_is_replaced_only_where_that_is_said() -> None:
    done("train", *DIGITS_ALONE, "--out", "x")
    before = Path("x/results.json").stat().st_mtime_ns
    message = refused("train", *DIGITS_ALONE, "--out", "x")
    assert message == "x holds a finished run; take another --out, or --overwrite to replace it"
    assert Path("x/results.json").stat().st_mtime_ns == before
    done("train", *DIGITS_ALONE, "--out", "x", "--overwrite")
    assert Path("x/results.json").stat().st_mtime_ns > before


def test_overwrite_spares_a_folder_that_holds_a_persons_own_recipe() -> None:
    Path("project").mkdir()
    Path("project/recipe.yaml").write_text(RECIPE)
    Path("project/photo.jpg").write_bytes(b"precious")
    understudy("train", "project/recipe.yaml", "--out", "project", "--overwrite")
    assert Path("project/photo.jpg").read_bytes() == b"precious"
    assert Path("project/recipe.yaml").read_text() == RECIPE


def test_an_unwritable_out_is_said_so() -> None:
    Path("a_file").write_text("x")
    message = refused("train", *DIGITS_ALONE, "--out", "a_file/x")
    assert "cannot write to the run folder a_file/x: Not a directory" in message


def test_an_unknown_format_is_refused_before_anything_is_trained() -> None:
    message = refused("compare", *DIGITS, *TEACHER, "--rows", "alone", "--format", "html", "--out", "x")
    assert "'html' is unknown; there are: csv, latex, md" in message
    assert not Path("x").exists()


def test_an_unknown_split_is_refused(run: Path) -> None:
    assert "split" in refused("evaluate", run, "--split", "validation")


def test_a_split_that_the_data_lack_is_refused(run: Path) -> None:
    assert "pets has no test split" in refused("evaluate", run, "--split", "test")


@pytest.mark.parametrize("classes", [("cat", "cow", "dog"), ("ant", "bee")])
def test_data_of_other_classes_are_refused(run: Path, classes: tuple[str, ...]) -> None:
    write_tree(Path("others"), dict.fromkeys(classes, 5))
    assert "classes" in refused("evaluate", run, "--data", "others")


@pytest.mark.parametrize("target", ["a_folder", "a_file/x.onnx"])
def test_an_onnx_file_that_cannot_be_written_is_said_so(run: Path, target: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'understudy[export]'")
    Path("a_folder").mkdir()
    Path("a_file").write_text("x")
    assert target in refused("export", run, "--onnx", target)
    assert list(Path("a_folder").iterdir()) == []


def test_an_unknown_format_of_the_table_is_refused(run: Path) -> None:
    assert "'html' is unknown; there are: csv, latex, md" in refused("report", run, "--format", "html")


@pytest.mark.parametrize("command", ["report", "evaluate"])
def test_a_damaged_run_is_refused_in_words(run: Path, command: str) -> None:
    Path("damaged").mkdir()
    Path("damaged/recipe.yaml").write_text("")
    Path("damaged/results.json").write_text("{")
    assert "damaged" in refused(command, "damaged")
