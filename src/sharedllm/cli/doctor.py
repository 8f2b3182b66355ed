"""`sharedllm doctor`: what is installed here and whether it works, to be pasted into a report."""

from dataclasses import asdict
from typing import Any

import typer

from ..utils.errors import UserError
from ..utils.text_files import some
from .common import JsonOption, print_json, stderr


def command(json: JsonOption = False) -> None:
    """Say what is installed here and whether it works: a report to paste. Exits with 1 if the self-check fails."""
    try:
        from ..installation.check import self_check
        from ..installation.machine import describe_machine
        from ..utils.hardware import default_device
        from .loading import quiet
    except ImportError as error:
        raise UserError(
            f"a library can't be imported: {error}. Install this package again, as docs/install.md says."
        ) from None
    quiet()
    device = default_device()
    with stderr.status("looking at this machine …"):
        machine = describe_machine(device)
    if not json:
        print("\n".join(shown(machine)))
        print("\nself-check", flush=True)
    checks = []
    for check in self_check(device):
        checks.append(check)
        if not json:
            print(
                _line(f"{'ok' if check.ok else 'FAILED'}: {check.name}", f"{check.found} ({check.seconds:.1f} s)"),
                flush=True,
            )
    ok = all(check.ok for check in checks)
    if json:
        print_json(ok=ok, **machine, checks=[asdict(check) for check in checks])
    else:
        print("\nall is well" if ok else "\nsomething is wrong: paste this report into an issue")
    if not ok:
        raise typer.Exit(1)


def shown(machine: dict[str, Any]) -> list[str]:
    """The report in lines of at most a screen's width: a heading for each part, and one fact a line."""
    cpu, memory = machine["processor"], machine["memory"]
    lines = ["versions", *(_line(name, value) for name, value in machine["versions"].items())]
    rates = ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in cpu["gflops"].items())
    lines += [
        "",
        "machine",
        _line("processor", f"{cpu['name']}, {some(cpu['cores'], 'core')}, {some(cpu['threads'], 'thread')}"),
    ]
    instructions = "with" if cpu["bf16_instructions"] else "without"
    lines += [_line("products", f"{rates} ({instructions} instructions for bf16)")]
    lines += [_line("checkpoints", f"are loaded in {cpu['checkpoints_are_loaded_in']} on the CPU")]
    found: list[dict[str, Any]] = machine["gpu"] or [{"name": "none"}]
    for gpu in found:
        more = (
            f", {_gb(gpu['free'])} of {_gb(gpu['total'])} free, capability {gpu['capability']}"
            if "total" in gpu
            else ""
        )
        lines.append(_line("GPU", gpu["name"] + more))
    lines += [
        _line("used", machine["device"]),
        _line("memory", f"{_gb(memory['free'])} of {_gb(memory['total'])} free"),
    ]
    for name, disk in machine["disk"].items():
        lines.append(_line(f"disk, {name}", f"{_gb(disk['free'])} of {_gb(disk['total'])} free, {disk['folder']}"))
    compiler = machine["compiler"] or "none: torch.compile can't be used on the CPU; nothing else needs one"
    lines.append(_line("compiler", compiler))
    lines += [_line(name, value) for name, value in machine["environment"].items()]
    lines += ["", "kernels of attention", *(_line(what, name) for what, name in machine["kernels"].items())]
    lines += ["", "extras"]
    for name, extra in machine["extras"].items():
        state = f"missing {', '.join(extra['missing'])}: {extra['install']}" if extra["missing"] else "installed"
        lines.append(_line(name, f"{state} ({extra['about']})"))
    return lines


def _line(name: str, value: Any) -> str:
    return f"  {name:<34} {value}"


def _gb(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:,.1f} GB"
