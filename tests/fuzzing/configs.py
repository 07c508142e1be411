"""Readers of configs, and of files that describe users' own data."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.cli import config
from fewshot_bench.runner import own_data
from tests.fuzzing.subject import Seed, Subject

PARSED_WITHOUT_RUNNING = ("-m", "zero-shot", "-d", "digits")
YAML = b"""method: [zero-shot, clip-lora]
dataset: digits
shots: [1, 2]
seeds: 1-2
option:
  clip-lora: {rank: [1, 2], lr: 1e-3}
limit: 20
val: none
dry-run: true
"""
TOML = b"""method = ["zero-shot", "clip-lora"]
dataset = "digits"
shots = [1, 2]
seeds = "1-2"
limit = 20
force = false
[option.clip-lora]
rank = [1, 2]
lr = 1e-3
"""


def _configs(folder: Path) -> list[Seed]:
    return [Seed("run.yaml", YAML, "yaml"), Seed("run.toml", TOML, "toml")]


def _read_config(folder: Path, file: Path) -> bool:
    from fewshot_bench.cli.run import command

    config.as_defaults(config.read_config(file), click.Context(command), file)
    command.make_context("run", ["--config", str(file), *PARSED_WITHOUT_RUNNING])
    return True


def _own(folder: Path) -> list[Seed]:
    return [
        Seed("names.txt", b"cat\nbig dog\n\xc3\xa9t\xc3\xa9\n", "txt"),
        Seed("names.json", b'{"cat": "big cat", "dog": "small dog"}', "json"),
        Seed("list.json", b'["cat", "dog"]', "json"),
        Seed("names.yaml", b"cat: big cat\n'no': small dog\n1e-3: x\n", "yaml"),
        Seed("list.yml", b"- cat\n- dog\n- 'yes'\n", "yaml"),
        Seed("prompts", b"a photo of a {}.\nart of {}\n", "txt"),
    ]


def _read_own(folder: Path, file: Path) -> bool:
    if file.name == "prompts":
        return bool(own_data.read_own_data(None, (str(file),), None))
    return bool(own_data.read_own_data(file, (), None))


SUBJECTS = (
    Subject("configs", 6, _configs, _read_config, (click.ClickException,)),
    Subject("class names and prompts", 5, _own, _read_own),
)
