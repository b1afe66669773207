"""One page that shows a run: a single HTML file that opens from disk and asks the network for
nothing."""
