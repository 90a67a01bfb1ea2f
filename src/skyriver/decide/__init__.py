"""From events to what is done about them. Low to high (an arrow goes downwards only; import-linter holds it):

acting : replay      the dispatcher's process (sinks, reviews) : history decided again, and proof
worker               the process of a partition: HTTP, sources, what it tells
partition            the engine: log, windows, checkpoint, recovery
streams : tuning : decision   what the control plane loads : thresholds from costs : features in, decision out
rules                the language, its evaluators, costs
log                  what stands in the log, and how it is read
"""
