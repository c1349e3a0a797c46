"""A site: trains on its own rows and hands in nothing but coefficients."""

from __future__ import annotations

import argparse

import digits
import numpy as np
from sklearn.linear_model import SGDClassifier

import cellbus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the file with the digits, at this site")
    options = parser.parse_args()
    with cellbus.connect() as bus:
        images, labels = digits.part_of(bus.site, options.data)
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, random_state=0)
        model.partial_fit(images[:1], labels[:1], classes=np.arange(10))
        for task in cellbus.tasks(bus):
            weights = task.tensors()
            model.coef_, model.intercept_ = weights["coef"].copy(), weights["intercept"].copy()
            model.partial_fit(images, labels)
            task.submit(
                {"coef": model.coef_, "intercept": model.intercept_},
                weight=len(labels),
                metrics={"accuracy": model.score(images, labels)},
            )


if __name__ == "__main__":
    main()
