"""`fsbench env --check`: which device, precision and step a run will use, and a test of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fewshot_bench.api.defaults import precision_for
from fewshot_bench.api.spec import AUTO
from fewshot_bench.cli.check import find_device
from fewshot_bench.cli.output import say, write_text
from fewshot_bench.utils.devices import CPU, accelerator_kind
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import counted

MARKS = {True: "pass", False: "FAIL", None: "-"}


def judge_device(name: str, facts: dict[str, Any], output: Path | None, form: str) -> None:
    """Test a device and print what is found, and a verdict; exit with 1 if a check failed.

    facts: of `fsbench env`; all of it is written to `output`, with form `json` also printed.
    """
    import torch

    from fewshot_bench.runner.self_test import describe_choices, run_checks

    name = accelerator_kind() or CPU if name == AUTO else name
    find_device(name)
    device, precision = torch.device(name), precision_for(AUTO, (name,), here=True)
    choices = describe_choices(device, precision)
    is_text = form != "json"
    if is_text:
        model = facts["device_name"] if device.type != CPU else facts["cpu_name"]
        say(f"{model}, torch {facts['packages']['torch']}")
        for what, chosen in choices.items():
            say(f"{what:<10} {chosen}")
    checks = []
    for check in run_checks(device, precision):
        current().step(check.name)
        checks.append(check)
        if is_text:
            say(f"{MARKS[check.passed]:<4} {check.name}: {check.shown}")
    failed = [check.name for check in checks if check.passed is False]
    step = (
        "attach the file to an issue" if output else "run it again with --output FILE for an issue"
    )
    verdict = f"{counted(len(failed), 'check')} failed: {', '.join(failed)}; {step}"
    if not failed:
        verdict = f"{name} is ready: {precision}, {choices['step'].partition(':')[0]} steps"
    found = {"choices": choices, "checks": [*map(asdict, checks)], "verdict": verdict, **facts}
    text = json.dumps(found, indent=1) + "\n"
    if output or not is_text:
        write_text(output, text)
    if is_text:
        say(verdict)
    if failed:
        raise SystemExit(1)
