"""What a terminal shows of text with the control sequences that rich writes."""

import re


def visible_lines(text: str) -> list[str]:
    """What a terminal shows in the end, of output that moves up and erases lines only."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[\d*[A-Za-z]|\x1b\[\?\d+[hl]|\r|\n)", re.sub(r"\x1b\[[\d;]*m", "", text)):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part and not part.startswith("\x1b") and part != "\r":
            lines[row] = part
    return [line for line in lines if line.strip()]
