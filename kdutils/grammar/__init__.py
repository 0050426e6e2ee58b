"""The embedded corpus in five languages, behind one door: `kdutils.grammar.corpus`."""
