"""Effect of one intervention on one series in a file: `impact` and `causal-impact`.

request           the flags, checked
series_file       the file as one regular series per column
effect            what every method returns
scaled_control    --method did
methods           the three methods by name, and the same method at moved interventions
refutation        gates, placebos, sensitivity, and what they allow to be said
analyse           all of it together; `files` and `plots` are what is written
commands          the two verbs
"""
