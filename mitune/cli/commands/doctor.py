"""The verb that tells what this machine can do: doctor."""

from dataclasses import dataclass
from typing import Any

from mitune.cli.options.model import Output


@dataclass(frozen=True, kw_only=True)
class Doctor(Output):
    """Devices, versions, which implementations are active, and why the others are not."""

    def run(self) -> dict[str, Any]:
        from mitune.cli import doctor

        report = doctor.examine()
        print(doctor.tell(report))
        return report
