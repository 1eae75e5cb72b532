"""A comparison of several rows in one pass, beside the sum of its parts and beside separate runs.

`compare` is `Trainer.fit` with all rows of a seed: one batch, one augmentation and one teacher pass for all of them.
`parts` is the least that can be done: the same batches drawn and seen by the teacher once, then every student's steps
on them, each student by itself. `separate` is one `Trainer.fit` for each row. All three train the same rows on as many
batches and take turns in one process.

    python benchmarks/compare_rows.py [--rows alone kd kd+dot dist projector] [--turns 7] [--steps 12] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from measuring import add_common_arguments, device_of, in_turns, report, summary
from ours import Blocks, opened, recipe, training_block

from understudy.recipes.comparison import rows_of
from understudy.runs.build import build_trainer
from understudy.runs.components import Components

ROWS = ("alone", "kd", "kd+dot", "dist", "projector")


def main() -> None:
    arguments = parsed()
    device = device_of(arguments)
    teacher, student = arguments.pair.split("-")
    components = opened(
        recipe(
            arguments.data,
            (teacher, student),
            arguments.rows,
            batch_size=arguments.batch,
            precision=arguments.precision,
            device=device.type,
        )
    )
    contestants = {
        "parts": by_parts(components, arguments.rows, arguments.steps),
        "compare": training_block(components, arguments.rows, arguments.steps),
        "separate": separately(components, arguments.rows, arguments.steps),
    }
    rows = summary(in_turns(contestants, arguments.turns, device), "parts")
    lines = [
        "| how | seconds a block | times the parts | range over turns | processor time, times the parts |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["range_wall"]
        lines.append(
            f"| {row['name']} | {row['wall_s']:.2f} | {row['times_wall']:.2f} | {low:.2f} to {high:.2f} | "
            f"{row['times_processor']:.2f} |"
        )
    settings = {name: value for name, value in vars(arguments).items() if isinstance(value, str | int)}
    record = {"rows": rows, **settings, "learns": ", ".join(arguments.rows), "device": str(device)}
    report("\n".join(lines), record, arguments.json)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--pair", default="resnet56-resnet20", help="teacher-student")
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="of a block")
    parser.add_argument("--data", default="../shared/data/cifar10")
    return parser.parse_args()


def by_parts(components: Components, rows: Sequence[str], num_steps: int) -> Callable[[], None]:
    """One teacher pass a batch, then the steps of each student on its own."""
    trainer = build_trainer(components, rows_of(components.recipe), 0)
    loader = Blocks(components.train_loader(0), num_steps)
    teacher = trainer.teacher
    assert teacher is not None
    assert [student.name for student in trainer.students] == list(rows)

    def block() -> None:
        with torch.autocast(components.device.type, torch.bfloat16, enabled=components.recipe.precision == "bfloat16"):
            seen = [(batch, teacher.observe(batch)) for batch in loader.epoch(1)]
        for student in trainer.students:
            student.train()
            for batch, observed in seen:
                student.begin_step(progress=0.0, epochs=240)
                student.step(batch, observed, epoch=1)

    return block


def separately(components: Components, rows: Sequence[str], num_steps: int) -> Callable[[], None]:
    """A training run for each row, one after the other."""
    blocks = [training_block(components, [row], num_steps) for row in rows]

    def block() -> None:
        for train in blocks:
            train()

    return block


if __name__ == "__main__":
    main()
