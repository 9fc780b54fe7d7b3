"""Tables, a page and figures of finished runs: `python -m experiments.report PATHS [options]`.

A path is a folder, searched for records (`metrics.json`), or a file written by `--json`. Runs of one configuration are
one table; a row is a method with its settings. Of several trials of a row, the one with the highest mean validation
accuracy over the seeds that all of them share is shown, and `--select` writes it for `settings_from`. `--overview` is
one table of all methods over configurations that differ in the task.

The tables in `experiments/results` are made there by

    python -m experiments.report toy_shift.json toy_rotation.json fashion_robust.json fashion_robust_trials.json \
fashion_robust_all.json convergence.json fashion_robust_third.json fashion_vit.json vae_edits.json spurious.json \
spurious_smaller.json --markdown > report.md
    python -m experiments.report ablation.json --markdown --pivot augmenter.objective \
augmenter.policy,augmenter.schedule > ablation.md
    python -m experiments.report ablation_draws.json --markdown >> ablation.md
    python -m experiments.report ablation_uniform.json --markdown >> ablation.md
"""

from experiments.report.command import main

__all__ = ["main"]
