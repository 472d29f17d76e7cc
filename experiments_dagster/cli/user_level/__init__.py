"""Analyses of one file with a row per user, by the commands and files that tecore's users know.

    rows       the file, its two arms, its columns of numbers
    schemas    `validate --input`: what a file must look like
    audit      what is in a file: profile, ids, balance, sample ratio
    cuped      `cuped`, `cuped_ratio`: fixed horizon, with and without the pre-period
    looks      what each look saw; `sequential` decides, `sequential_*` read and report
    stream     `sequential-simulate`: a stream with a known effect
    bundle     results.json, report.md, run_meta.json, tables, plots
    run_file   `run --config`: the same commands from a YAML file

Nothing here computes an estimate of its own: that is the business of `stats`.
"""
