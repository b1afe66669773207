"""One page that shows a run: a single HTML file that opens from disk and asks the network for
nothing."""

from mitune.report.write import write_report

__all__ = ["write_report"]
