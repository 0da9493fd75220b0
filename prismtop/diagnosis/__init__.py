"""Why an episode was slow: evidence from two windows, hypotheses as data, a ranked answer."""
