"""Gates: Report -> Verdict. One record a rule; nothing here computes a norm."""
