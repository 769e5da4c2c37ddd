"""What a run of the faults did, told while it goes on and summed up at its end."""

import time
from collections import Counter


class Report:
    """Lines with their time since the start; counts of kills and faults."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kills: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.checks = 0
        self.differences: list[str] = []
        self.longest_recovery = 0.0
        self.largest_mb = 0
        self._began = time.monotonic()
        self.say(f"seed {seed}")

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {line}", flush=True)  # noqa: T201  # shown by `pytest -s`

    def killed(self, what: str) -> None:
        self.kills[what] += 1

    def table(self, **figures: int) -> str:
        rows = {
            "seed": self.seed,
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "kills": self.kills.total(),
            **{f"  {what}": count for what, count in sorted(self.kills.items())},
            "faults": self.faults.total(),
            **{f"  {what}": count for what, count in sorted(self.faults.items())},
            **{name.replace("_", " "): count for name, count in figures.items()},
            "comparisons of everything": self.checks,
            "longest wait until all was stored, s": round(self.longest_recovery, 1),
            "largest service, MB": self.largest_mb,
            "differences": len(self.differences),
        }
        return "\n" + "\n".join(f"{name:<44}{value:>12}" for name, value in rows.items())
