"""What float16 and top-k cost: how far KD's loss and gradient move, and what a look-up takes.

    python benchmarks/bank_cost.py BANK          BANK: a float32 bank with all logits, such as runs/bank/seed0

On a float32 bank of one view, read as it is and as every narrower one would have stored it. The student is a random
linear layer's worth of logits, which is where a student begins: its gradient by its own logits is what the bank's
rounding reaches first.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from understudy import Batch, kd_loss
from understudy.teachers.bank.packing import BankLayout, packed, unpacked
from understudy.teachers.bank.teacher import BankTeacher

ROWS = 2048
TEMPERATURES = (1.0, 4.0)


def gradient(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = student.clone().requires_grad_()
    loss = kd_loss(logits, teacher, temperature=temperature)
    loss.backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


def stored_as(logits: Tensor, layout: BankLayout) -> Tensor:
    return unpacked(packed(logits, {}, layout), layout, [])[0]


def cost(exact: Tensor, layout: BankLayout) -> None:
    narrow = stored_as(exact, layout)
    student = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
    mass = exact.softmax(1).topk(layout.topk or layout.num_classes, dim=1).values.sum(1).mean()
    words = [f"{layout.dtype:8} top {layout.topk or 'all':>4}  {layout.row_bytes:6,} bytes  mass {mass:.4f}"]
    for temperature in TEMPERATURES:
        (loss, wanted), (other, found) = (gradient(student, rows, temperature) for rows in (exact, narrow))
        off = float((found - wanted).norm() / wanted.norm())
        words.append(f"T={temperature:g}: loss {float(other / loss - 1):+.1e}, gradient {off:.1e}")
    print("   ".join(words))


def lookup_ms(bank: BankTeacher, rows: int) -> float:
    drawn = torch.Generator().manual_seed(0)
    taken = []
    for _ in range(200):
        indices = torch.randperm(bank.manifest.layout.num_samples, generator=drawn)[:rows]
        batch = Batch(torch.empty(rows, 0), indices, indices=indices)
        began = time.perf_counter()
        bank.observe(batch)
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


def main(folder: Path) -> None:
    bank = BankTeacher(folder)
    layout = bank.manifest.layout
    assert layout.dtype == "float32"
    assert layout.topk is None
    indices = torch.arange(min(ROWS, layout.num_samples))
    exact = bank.observe(Batch(torch.empty(len(indices), 0), indices, indices=indices)).output
    top1 = bank.manifest.teacher.scores.get("val", {}).get("top1")
    print(f"{len(indices)} images, {layout.num_classes} classes, teacher val top-1 {top1} %, torch {torch.__version__}")
    for dtype in ("float32", "float16"):
        for topk in (None, 32, 16, 8, 4):
            if topk is None or topk < layout.num_classes:
                cost(exact, layout.model_copy(update={"dtype": dtype, "topk": topk}))
    print(f"look-up of 64 rows: {lookup_ms(bank, 64):.3f} ms (median of 200, {torch.get_num_threads()} thread)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
