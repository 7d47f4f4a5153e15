"""Scores: functions over tables, for many deliberations at once.

    scores          the tall form of every figure
    proposals       one row per seat, from all utterances
    text            texts as units of stemmed words
    similarity      lexical similarity of texts; `embeddings` where a model is configured
    diversity       how different a council's proposals are, before and after revision
    relevance       how well a proposal fits its task rather than others, and covers what is asked
    form            how much a proposal says beyond its task, and how it is laid out
    code_checks     parse a proposal's code and apply rules to it, without running it
    council_checks  whether a council's result can be trusted
    judge           verdicts on pairs, made into a ranking
    ranking         weights, candidates, winners; `options` holds the settings
    confidence      how likely the winner is better than the runner-up
    score           all scores of a batch; `cases` for proposals made elsewhere
    outcome         one row for each deliberation; `explain` says why its winner won

Every score but `fit` depends on its own deliberation alone. `fit` also depends on the other tasks of the batch.
"""
