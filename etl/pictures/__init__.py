"""Pictures of a lake: a page that tells its state, and candlestick charts.

`model` says what they show, `reading` gets it from a lake with SQL, `page` (HTML) and `charts` (matplotlib, which need not be
installed) draw it, both pure; `making` puts them together.
"""
