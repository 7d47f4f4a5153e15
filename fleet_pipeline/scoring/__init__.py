"""Scores: functions over tables, for many deliberations at once.

A score depends on its own deliberation alone, never on which others were scored with it, so that
it can be recomputed from the transcript and comes out the same.

This is the first version: lexical representations only (TF-IDF). `proposals` finds who proposed
what, `diversity` and `relevance` measure, `ranking` weighs and orders.
"""
