"""Several looks at one experiment: spending, boundaries, confidence sequences."""
