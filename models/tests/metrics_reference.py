"""The reference for lightbox-models' metrics: reads sets as JSON on standard input, writes what scikit-learn,
statsmodels and scipy say of them, as JSON, on standard output. Run by metrics_reference.rs.

What none of the three has is derived here by its definition, by another way than the Rust code's: DeLong's
variance by the matrix of all pairs (the Rust code uses midranks), the stability index by numpy's histogram."""

import json
import sys

import numpy
import scipy.special
import scipy.stats
import sklearn.metrics
import statsmodels.stats.proportion


def pairs(scores, truth):
    """DeLong's structural components, from the definition."""
    positive, negative = scores[truth], scores[~truth]
    won = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    return won.mean(axis=1), won.mean(axis=0)


def delong(first, second, truth):
    (a10, a01), (b10, b01) = pairs(first, truth), pairs(second, truth)
    if len(a10) < 2 or len(a01) < 2:
        return None
    covariance = numpy.cov(a10, b10) / len(a10) + numpy.cov(a01, b01) / len(a01)
    difference = a10.mean() - b10.mean()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = scipy.stats.norm.ppf(0.975)
    half = z * numpy.sqrt(covariance[0, 0])
    return {
        "variance": covariance[0, 0],
        "lower": max(a10.mean() - half, 0.0),
        "upper": min(a10.mean() + half, 1.0),
        "covariance": covariance[0, 1],
        "difference": difference,
        "difference_variance": max(variance, 0.0),
    }


def stability(then, now, bins):
    edges = numpy.unique(numpy.percentile(then, numpy.arange(1, bins) * 100 / bins))
    # Bins are open below and closed above: histogram's are the other way, so both are mirrored.
    def shares(values):
        mirrored = numpy.concatenate([[-numpy.inf], -edges[::-1], [numpy.inf]])
        counts = numpy.array([
            numpy.count_nonzero((-values >= low) & (-values < high)) for low, high in zip(mirrored, mirrored[1:])
        ])
        return numpy.maximum(counts / len(values), 1e-4)
    p, q = shares(then), shares(now)
    return float(numpy.sum((q - p) * numpy.log(q / p)))


def measured(one):
    scores = numpy.array(one["scores"], dtype=float)
    other = numpy.array(one["other"], dtype=float)
    truth = numpy.array(one["truth"], dtype=bool)
    both = truth.any() and not truth.all()
    said = scores >= one["threshold"]
    found = {"auc": float(sklearn.metrics.roc_auc_score(truth, scores)) if both else None}
    found["delong"] = delong(scores, other, truth) if both else None

    tn, fp, fn, tp = (int(count) for count in sklearn.metrics.confusion_matrix(truth, said, labels=[False, True]).ravel())
    for name, successes, trials in [
        ("sensitivity", tp, tp + fn), ("specificity", tn, tn + fp), ("ppv", tp, tp + fp), ("npv", tn, tn + fn),
    ]:
        if trials == 0:
            found[name] = None
        else:
            lower, upper = statsmodels.stats.proportion.proportion_confint(successes, trials, 0.1, method="wilson")
            found[name] = [successes / trials, float(lower), float(upper)]
    if both:
        assert found["sensitivity"][0] == sklearn.metrics.recall_score(truth, said)

    values = []
    for drawn in one["resamples"]:
        drawn_truth = truth[drawn]
        if drawn_truth.any() and not drawn_truth.all():
            values.append(sklearn.metrics.roc_auc_score(drawn_truth, scores[drawn]))
    if len(one["resamples"]) - len(values) <= len(one["resamples"]) * 0.1:
        found["bootstrap"] = [float(value) for value in numpy.percentile(values, [2.5, 97.5])]
    else:
        found["bootstrap"] = None

    smirnov = scipy.stats.ks_2samp(scores, other, method="asymp")
    size = len(scores) * len(other) / (len(scores) + len(other))
    found["smirnov"] = [float(smirnov.statistic), float(scipy.special.kolmogorov(smirnov.statistic * numpy.sqrt(size)))]
    found["stability"] = stability(scores, other, 10)
    if truth.any() or said.any():
        # Dice of masks is F1.
        found["dice"] = float(sklearn.metrics.f1_score(truth, said, zero_division=0.0))
    else:
        found["dice"] = None
    return found


given = json.load(sys.stdin)
json.dump(
    {
        "sets": [measured(one) for one in given["sets"]],
        "quantiles": [float(scipy.special.ndtri(p)) for p in given["probabilities"]],
        "cumulative": [float(scipy.special.ndtr(z)) for z in given["deviates"]],
    },
    sys.stdout,
)
