"""What a runtime's error says, in one line and without the insides of that runtime."""

from __future__ import annotations

import re

_LONGEST = 400  # characters
_INSIDES = re.compile(r"(Exception from |Check '.*' failed at |FrontEnd API failed|Summary:)")  # OpenVINO's places


def told(error: BaseException) -> str:
    """The lines of a foreign error that are not about where in its source it arose."""
    lines = (line.strip().removeprefix("-- ") for line in str(error).splitlines())
    text = " ".join(line for line in lines if line and not _INSIDES.match(line))
    return text[:_LONGEST] or type(error).__name__


def told_by_tensorrt(message: str) -> str:
    """The text inside `IBuilder::f: Error Code 4: API Usage Error (TEXT In f at FILE:LINE)`, of the first line
    that says more than the node's name.
    """
    lines = message.strip().split("\n")
    line = next((line for line in lines if not line.startswith("Invalid Node")), lines[0])
    if found := re.search(r"Error Code \d+: ([\w ]+)\((.*)\)$", line):
        kind, line = found.group(1).strip(), found.group(2)
        line = f"out of memory: {line}" if kind == "OutOfMemory" else line
    line = re.sub(r"\.? In \w+ at \S+( \(.*\))?$", "", line)
    line = re.sub(r"\.?; \[[\w.]+:\d+: \w+\].*$", "", line)
    return re.sub(r"^\[[\w.]+:\d+: \w+\] ", "", line).strip()
