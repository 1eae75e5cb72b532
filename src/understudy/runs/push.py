"""`understudy push`: a student sent to the Hugging Face hub, through the hub's own library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # which it does not list

from understudy.models.hub import first_line
from understudy.report.model_card import FOLDER
from understudy.runs.cards import CARD_FILE, card_of
from understudy.runs.folder import RunFolder
from understudy.runs.reopen import results_of
from understudy.utils.errors import UserError
from understudy.utils.text import bytes_in_words
from understudy.utils.untrusted import given_path, text_of, visible

__all__ = ["push_student"]

SENT = (".safetensors", ".json")  # beside the card; a pickle may hold code, and is never sent
NEEDED = ("config.json", "model.safetensors")
MAX_CARD_BYTES = 1_000_000
# Of whatever library huggingface_hub talks with, which has changed twice.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
NO_TOKEN = (
    "the hub asks who you are, and no token is found here: `hf auth login`, or set HF_TOKEN to one that may write "
    "(huggingface.co/settings/tokens). --dry-run lists what would be sent without one"
)


@dataclass(frozen=True)
class Parcel:
    """What is sent: files as they lie there, and the card as it is sent."""

    folder: Path
    files: tuple[Path, ...]
    card: str
    left_out: tuple[str, ...]

    def described(self) -> list[str]:
        """A line for each file with its size, then what stays here."""
        sizes = {file.name: file.stat().st_size for file in self.files} | {CARD_FILE: len(self.card.encode())}
        lines = [f"  {visible(name):<28} {bytes_in_words(size)}" for name, size in sorted(sizes.items())]
        return [*lines, *([f"  left here: {visible(', '.join(self.left_out))}"] if self.left_out else [])]


def push_student(path: str | Path, to: str, *, dry_run: bool, private: bool, license: str | None) -> str:
    """Send a student's folder as a model repository; what was sent, and where it is, in words.

    Args:
        path: a run folder, whose deployed student is meant, or the folder of a student.
        to: USER/NAME on the hub.
        dry_run: list the files and ask nothing of the hub.
        private: of a repository that is made; one that is there stays as it is.
        license: put into the card's front matter; None: what the card says, if anything.

    Raises:
        UserError: no student there, no token, a name that the hub does not take, or whatever the hub refuses.
    """
    _check_name(to)
    parcel = _parcel(_student_folder(path), to, license)
    if dry_run:
        return "\n".join([f"would be sent from {parcel.folder} to {to}:", *parcel.described()])
    if get_token() is None:
        raise UserError(NO_TOKEN)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _refusals_in_words(to):
        url = api.create_repo(to, private=private or None, exist_ok=True)
        card = CommitOperationAdd(CARD_FILE, parcel.card.encode())
        added = [card, *(CommitOperationAdd(file.name, file) for file in parcel.files)]
        api.create_commit(to, added, commit_message="Add the student and its model card")
    return "\n".join([f"sent from {parcel.folder} to {url}:", *parcel.described()])


def _check_name(to: str) -> None:
    try:
        validate_repo_id(to)
    except HFValidationError as error:
        raise UserError(f"--to {to!r}: the hub takes no such name ({first_line(error)}); write USER/NAME") from None
    if to.count("/") != 1:
        raise UserError(f"--to {to!r}: whose? Write USER/NAME, with your name on the hub or that of an organisation")


def _student_folder(path: str | Path) -> Path:
    given = given_path(path, what="RUN")
    for folder in (given / "student", given):
        if all((folder / name).is_file() for name in NEEDED):
            return folder
    raise UserError(
        f"{path} holds no student ({' and '.join(NEEDED)}); give a finished run, or a folder such as "
        "RUN/students/ROW/seed0"
    )


def _parcel(folder: Path, to: str, license: str | None) -> Parcel:
    found = sorted(file for file in folder.iterdir() if file.name != CARD_FILE)
    sent = tuple(file for file in found if file.is_file() and not file.is_symlink() and file.suffix in SENT)
    lacking = [name for name in NEEDED if name not in {file.name for file in sent}]
    if lacking:
        raise UserError(f"{folder / lacking[0]} is a link; put the file itself there to send it")
    left_out = tuple(file.name for file in found if file not in sent)
    return Parcel(folder, sent, _card(folder, to, license), left_out)


def _card(folder: Path, to: str, license: str | None) -> str:
    """The folder's card, as a person may have changed it, with examples that name the repository."""
    file = folder / CARD_FILE
    text = text_of(file, most_bytes=MAX_CARD_BYTES) if file.exists() else _new_card(folder)
    text = text.replace(f'"local-dir:{FOLDER}"', f'"hf-hub:{to}"').replace(
        f'load_student("{FOLDER}"', f'load_student(huggingface_hub.snapshot_download("{to}")'
    )
    for before in ("", "import torch\n"):
        text = text.replace(
            f"```python\n{before}import understudy\n\nmodel",
            f"```python\nimport huggingface_hub\n{before}import understudy\n\nmodel",
        )
    text = text.replace(f'from_pretrained("{FOLDER}")', f'from_pretrained("{to}")')
    if license is None:
        return text
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
        card.data["license"] = license
        return str(card)
    except Exception as error:  # whatever its YAML raises
        raise UserError(
            f"{file}: its front matter cannot be read ({first_line(error)}); mend it to add --license"
        ) from None


def _new_card(folder: Path) -> str:
    """Of a run from before cards were written."""
    is_deployed = folder.name == "student"
    run = RunFolder(folder.parent if is_deployed else folder.parents[2] if len(folder.parents) > 2 else folder)
    if run.is_finished:
        results = results_of(run)
        name, number = folder.parent.name, folder.name.removeprefix("seed")
        if is_deployed and results.deployed is not None:
            name, number = results.deployed.row, str(results.deployed.seed)
        row = results.row(name)
        seed = next((one for one in row.seeds if str(one.seed) == number), None) if row else None
        if row is not None and seed is not None:
            return card_of(run, results, row, seed)
    raise UserError(f"{folder} has no {CARD_FILE} and lies in no finished run that could tell; write one to send it")


@contextmanager
def _refusals_in_words(to: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        said = error.server_message or first_line(error)
        raise UserError(f"the hub refuses {to} ({error.response.status_code}): {visible(said)}") from None
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing is sent; unset it") from None
    except (_HTTP_ERROR, OSError) as error:
        raise UserError(f"the hub cannot be reached ({first_line(error)}); nothing was committed, try again") from None
    except ValueError as error:  # the card's front matter, as the hub reads it
        raise UserError(f"the hub takes no such card: {visible(str(error))}") from None
