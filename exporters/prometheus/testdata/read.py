"""Reads a page with the Prometheus project's own Python parsers and prints its samples as JSON.

Usage: read.py text|openmetrics < page
"""

import json
import sys

if sys.argv[1] == "openmetrics":
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
else:
    from prometheus_client.parser import text_string_to_metric_families as parse

page = sys.stdin.buffer.read().decode("utf-8")
samples = [
    {"name": sample.name, "labels": dict(sample.labels), "value": str(float(sample.value))}
    for family in parse(page)
    for sample in family.samples
]
json.dump(samples, sys.stdout)
