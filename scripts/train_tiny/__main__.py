"""Command line: train the model, measure it, or render the demo data sets."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import torch

from . import demo
from .evaluate import measure_demo, measure_digits
from .fonts import PACKAGE_LIST
from .pool import load_pool
from .train import Stage, train

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_OUT = ROOT / "fewshot_bench" / "backbones" / "tiny"
DEFAULT_DEMO = ROOT / "datasets" / "fsbench_datasets" / "demo"


def parse_arguments() -> argparse.Namespace:
    """Return the command-line arguments."""
    parser = argparse.ArgumentParser(prog="python -m scripts.train_tiny", description=__doc__)
    parser.add_argument("action", choices=("train", "measure", "demo", "fonts"))
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the model")
    parser.add_argument("--demo", type=Path, default=DEFAULT_DEMO, help="folder of the demo sets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--stop", type=int, help="end after so many of the scheduled steps")
    parser.add_argument("--start", type=Path, help="folder of the model to train on from")
    parser.add_argument("--crops", type=float, default=0.0, help="share of images to crop")
    parser.add_argument("--flips", type=float, default=0.0, help="share of images to mirror")
    parser.add_argument("--coarse", type=float, default=0.3, help="share of 8 x 8 images")
    parser.add_argument("--threads", type=int, default=1)
    cache = Path(tempfile.gettempdir())
    parser.add_argument("--cache", type=Path, default=cache, help="folder for the tile pool")
    return parser.parse_args()


def measure(model: Path, demo_folder: Path) -> None:
    """Print the accuracy on the digits and on the demo data sets that exist."""
    results = {f"digits: {key}": value for key, value in measure_digits(model).items()}
    for name, template in demo.TEMPLATES.items():
        path = demo_folder / f"{name}.npz"
        if path.exists():
            scores = measure_demo(model, path, template)
            results |= {f"{name}: {key}": value for key, value in scores.items()}
    for key, value in results.items():
        print(f"{100 * value:5.1f} %  {key}")


def stage_of(arguments: argparse.Namespace) -> Stage:
    """Return the training stage that the arguments describe."""
    return Stage(
        seed=arguments.seed,
        steps=arguments.steps,
        stop=arguments.stop or arguments.steps,
        start=arguments.start,
        crops=arguments.crops,
        flips=arguments.flips,
        coarse=arguments.coarse,
    )


def main() -> None:
    """Run one action."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    if arguments.action == "fonts":
        print("apt-get install " + " ".join(PACKAGE_LIST.read_text().split()))
    elif arguments.action == "train":
        pool = load_pool(arguments.seed, arguments.cache)
        train(pool, arguments.out, stage_of(arguments))
    elif arguments.action == "demo":
        demo.write(arguments.demo, arguments.seed)
    else:
        measure(arguments.out, arguments.demo)


if __name__ == "__main__":
    main()
