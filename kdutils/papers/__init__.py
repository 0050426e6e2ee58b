"""One module a paper: its objectives as pure functions, its method, its experiment."""
