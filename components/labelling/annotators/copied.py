"""Words that a document has stated before: repeating them needs no knowledge, so the model need not ask for them."""

from components.labelling.alignment import Words, runs

# Of a longer run only the whole and its parts up to this length are remembered; names and dates are shorter.
_LONGEST_PART_WORDS = 8


def without_copied(text: str, words: Words) -> Words:
    """``words`` without the runs of words that have occurred before, alone or within a longer run."""
    said: set[tuple[str, ...]] = set()
    kept = [False] * len(words)
    pairs = [(start, end) for start, end in words.tolist()]
    first = 0
    for _, run_end in runs(text, words).tolist():
        last = first
        while last < len(pairs) and pairs[last][1] <= run_end:
            last += 1
        run = tuple(text[start:end] for start, end in pairs[first:last])
        if run not in said:
            kept[first:last] = [True] * (last - first)
            said.add(run)
            said.update(
                run[start : start + length]
                for length in range(1, min(len(run), _LONGEST_PART_WORDS) + 1)
                for start in range(len(run) - length + 1)
            )
        first = last
    return words[kept] if len(words) else words
