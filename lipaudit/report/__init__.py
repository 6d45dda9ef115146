"""Reports: (Report, Verdict) -> text, pure functions, one file a format."""
