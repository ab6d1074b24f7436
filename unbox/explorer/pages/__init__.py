"""The explorer's pages, a file each: `draw` makes a page's components, `wire` its events."""
