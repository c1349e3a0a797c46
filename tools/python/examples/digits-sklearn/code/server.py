"""The server: averages what the sites hand in, then compares with training in one place."""

from __future__ import annotations

import argparse
import json
import sys

import digits
import numpy as np
from sklearn.linear_model import SGDClassifier

import cellbus

MARGIN = 0.02
"""How much less accurate the federated model may be."""


def classifier() -> SGDClassifier:
    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, random_state=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the file with the digits: the rows for testing count")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    train_images, train_labels, images, labels = digits.load(options.data)

    averaging = cellbus.FedAvg(
        {"coef": np.zeros((10, 64), "f4"), "intercept": np.zeros(10, "f4")},
        rounds=options.rounds,
        on_round=lambda done, _: print(f"round {done.number}: {done.metrics} of {len(done.sites)} sites", flush=True),
    )
    with cellbus.connect() as bus:
        weights = averaging.run(bus)

    federated = classifier()
    federated.partial_fit(images[:1], labels[:1], classes=np.arange(10))
    federated.coef_, federated.intercept_ = weights["coef"], weights["intercept"]
    central = classifier()
    for _ in range(options.rounds):
        central.partial_fit(train_images, train_labels, classes=np.arange(10))
    found = {"federated": federated.score(images, labels), "central": central.score(images, labels)}
    print(json.dumps(found), flush=True)
    return 0 if found["federated"] >= found["central"] - MARGIN else 1


if __name__ == "__main__":
    sys.exit(main())
