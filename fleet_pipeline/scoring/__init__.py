"""Scores: functions over tables, for many deliberations at once.

    scores       the tall form of every figure
    proposals    who proposed what, from all that was said
    text         texts as units of stemmed words
    similarity   how alike texts are, lexically; `embeddings` where a model is configured
    diversity    how different a council's proposals are, before and after revision
    relevance    how well a proposal fits its task rather than others, and covers what is asked
    checks       its code, parsed and held against rules, never run
    judge        verdicts on pairs, made into a ranking
    ranking      weights, candidates, winners; `options` is what can be chosen
    score        all of it for a batch; `cases` for proposals made elsewhere
    verdict      one row for each deliberation; `explain` says why its winner won

All but `fit` depend on the own deliberation alone. `fit` is held against other tasks of the batch as well.
"""
