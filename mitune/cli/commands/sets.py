"""The verb about fine-tuning sets that are there: set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from mitune.arguments.fields import Positional, stands_for
from mitune.cli.commands.print_set import print_set
from mitune.cli.options.model import Output
from mitune.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Set(Output):
    """Look after fine-tuning sets: tell what is in one, check it, join the shares that several
    machines built, write it again with larger files, remove what killed runs left."""

    what: Positional[Literal["info", "verify", "merge", "compact", "gc"]]
    """info: what is in the set, and what is missing. verify: read and check every part; exit status
    2 if one is damaged. merge: join shares of one set into --out. compact: write a set again as
    --out with fewer, larger parts. gc: remove temporary files and locks of runs that are gone."""
    folders: Positional[list[Path]]
    """Folders of sets: one, or of merge all the shares."""
    out: Annotated[Path | None, stands_for("merge, compact: required")] = None
    """merge, compact: folder of the new set; merge also adds to one."""
    remove: bool = False
    """verify: remove the damaged parts, so that the build that began the set makes them again, and
    them alone."""
    prompts_per_part: int = 64
    """compact: prompts in each file."""
    kept_alone: bool = False
    """compact: store the latents of the kept candidates alone."""

    def run(self) -> dict[str, Any]:
        if self.what in ("merge", "compact") and self.out is None:
            raise UserError(f"--out is missing: expected a folder for what {self.what} makes")
        if self.what not in ("merge", "compact") and self.out is not None:
            raise UserError(f"--out is given with {self.what}: expected it with merge or compact")
        if self.what != "merge" and len(self.folders) != 1:
            raise UserError(f"{len(self.folders)} folders are given: {self.what} expects one")
        return {
            "info": self._info,
            "verify": self._verify,
            "merge": self._merge,
            "compact": self._compact,
            "gc": self._gc,
        }[self.what]()

    def _info(self) -> dict[str, Any]:
        from mitune.methods.telemetry import cost_of
        from mitune.sets.info import info

        found = {**info(self.folders[0]), "cost": cost_of(self.folders[0])}
        print_set(found)
        print(f"model: {found['model']}; made by mitune {found['mitune']} on {found['device']}")
        print(f"parts: {found['parts_there']} of {found['parts']}, {found['bytes'] / 1e6:.1f} MB")
        if cost := found["cost"]:
            used = cost.get("occupancy")
            print(
                f"built in {cost['device_hours']:.2f} device hours (processes: "
                f"{cost['processes']}), {cost['candidates_per_s']:.3g} candidates a second of each"
                + ("" if used is None else f", slots occupied to {used:.0%}")
            )
        if found["missing"]:
            print(f"missing: {len(found['missing'])} parts, which the build that began it makes")
        return found

    def _verify(self) -> dict[str, Any]:
        from mitune.sets.verify import remove_damaged, verify

        folder = self.folders[0]
        found = verify(folder)
        for path, wrong in found.faults.items():
            print(wrong if str(path) in wrong else f"{path} {wrong}")
        removed = remove_damaged(folder, found) if self.remove else []
        whole = found.parts - len(found.missing)
        print(
            f"{folder}: {whole} of {found.parts} parts are there, {found.rows} candidates in sound "
            f"ones; damaged or foreign: {len(found.faults)}"
        )
        if removed:
            print(f"removed: {len(removed)}; the build that began the set makes them again")
        elif found.faults:
            raise UserError(
                f"files in {folder} that are damaged or foreign: {len(found.faults)}, first "
                f"{next(iter(found.faults))}; expected sound parts: --remove removes them, and the "
                "build that began the set makes them again"
            )
        return {
            "parts": found.parts,
            "missing": list(found.missing),
            "rows": found.rows,
            "faults": {str(path): wrong for path, wrong in found.faults.items()},
            "removed": [str(path) for path in removed],
        }

    def _merge(self) -> dict[str, Any]:
        from mitune.sets.merge import merge

        assert self.out is not None
        merged = merge(self.out, self.folders)
        summary = merged.joined.summary()
        print_set(summary)
        print(f"copied: {merged.copied} parts")
        if merged.otherwise:
            print(
                f"{len(merged.otherwise)} parts were made twice and not with the same bytes, as on "
                "two kinds of processor: the first folder's are taken"
            )
        if not merged.joined.complete:
            print("not complete: further shares are missing")
        return {**summary, "copied": merged.copied, "otherwise": list(merged.otherwise)}

    def _compact(self) -> dict[str, Any]:
        from mitune.sets.compact import compact

        assert self.out is not None
        made = compact(self.folders[0], self.out, self.prompts_per_part, kept_alone=self.kept_alone)
        print_set(summary := made.summary())
        return summary

    def _gc(self) -> dict[str, Any]:
        from mitune.sets.leftovers import remove_all_leftovers

        removed = remove_all_leftovers(self.folders[0])
        print(f"removed: {len(removed)}, which killed runs left in {self.folders[0]}")
        return {"removed": [str(path) for path in removed]}
