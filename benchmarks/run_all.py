"""Run the benchmarks behind docs/performance.md one after the other, each a process, and keep table and JSON of each.

On two CPU cores this takes about 40 minutes, most of it resnet32x4; on a GPU it is meant to stay below 8. A benchmark
that fails or takes too long is said and passed over. torchdistill joins in where it is installed (peers.py says how).

    python benchmarks/run_all.py [--device cuda] [--only step_time bank_step] [--data FOLDER] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PAIRS = {"56": "resnet56-resnet20", "32x4": "resnet32x4-resnet8x4"}
NEEDS_DATA = ("bank_step", "vit_step", "compare_rows", "against_others", "peak_memory", "growth")
MOST_SECONDS = {"cpu": 1_200, "cuda": 150}  # of one benchmark

CPU = {
    "step_time": "step_time --turns 11 --steps 4",
    "vit_step": "vit_step --turns 9 --steps 2",
    "bank_step": "bank_step --turns 11 --steps 3",
    "dot_passes56": f"dot_passes --turns 11 --steps 2 --pair {PAIRS['56']} --compiled",
    "dot_passes32": f"dot_passes --turns 7 --steps 1 --pair {PAIRS['32x4']}",
    "compare_rows": "compare_rows --turns 7 --steps 6",
    "against56": f"against_others --pairs {PAIRS['56']} --turns 7 --steps 12",
    "against32": f"against_others --pairs {PAIRS['32x4']} --turns 5 --steps 4",
    "peak_memory": "peak_memory --repeats 3",
    "growth": "growth",
}
CUDA = {
    "step_time_64": "step_time --turns 7 --steps 20 --batch 64 --compiled",
    "step_time_256": "step_time --turns 7 --steps 20 --batch 256 --precision bfloat16 --compiled",
    "dot_passes": "dot_passes --turns 7 --steps 10 --batch 256 --precision bfloat16 --compiled",
    "vit_step": "vit_step --turns 7 --steps 20 --batch 256 --precision bfloat16 --width 192 --depth 12",
    "bank_step": "bank_step --turns 7 --steps 20 --batch 256 --precision bfloat16",
    "compare_rows": "compare_rows --turns 5 --steps 20 --batch 256 --precision bfloat16",
    "against_others": "against_others --turns 3 --steps 20 --batch 256 --precision bfloat16",
    "peak_memory": "peak_memory --repeats 1 --batch 256",
    "growth": "growth --sweeps classes features rows",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", nargs="+", choices=sorted({*CPU, *CUDA}), help="these alone")
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    plan = CPU if arguments.device == "cpu" else CUDA
    for name, line in plan.items():
        if arguments.only is None or name in arguments.only:
            run(name, line.split(), arguments)


def run(name: str, words: list[str], arguments: argparse.Namespace) -> None:
    """One benchmark in a process of its own; its table goes to NAME.txt, too."""
    script, *options = words
    command = [sys.executable, str(HERE / f"{script}.py"), *options, "--device", arguments.device]
    command += ["--json", str(arguments.out / f"{name}.json")]
    if script in NEEDS_DATA:
        command += ["--data", arguments.data]
    if script == "growth":
        command += ["--figure", str(arguments.out / "growth.svg")]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=MOST_SECONDS[arguments.device], check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{name}: {error}", flush=True)
        return
    (arguments.out / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
    print(f"{name}: {time.monotonic() - began:.0f} s\n{done.stdout}", flush=True)


if __name__ == "__main__":
    main()
