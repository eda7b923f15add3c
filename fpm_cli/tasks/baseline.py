"""A linear model without pretraining, trained on the same file: TF-IDF of n-grams with scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_union
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from fpm_cli.config.schema import Language
from fpm_cli.errors import DamagedError
from fpm_cli.tasks.definition import TaskDefinition
from fpm_cli.tasks.examples import Example

SEED = 0


def baseline_name(task: TaskDefinition) -> str:
    """The model's name in a table."""
    if task.is_pair:
        model = "ridge" if task.is_regression else "logistic"
        return f"linear: TF-IDF of both texts, {model} regression"
    return f"linear: {'character' if task.language == 'zh' else 'word and character'} n-grams, SVM"


def predict_with_baseline(
    task: TaskDefinition, training: Sequence[Example], examples: Sequence[Example]
) -> NDArray[np.int64] | NDArray[np.float64]:
    """Train a linear model and predict the class, or the value, of each example.

    Single texts: a linear SVM over n-grams. Pairs: a logistic regression over the n-grams that the two
    texts share, those in which they differ, and the similarity of the whole texts. Values are predicted by
    ridge regression. Texts after the second are not read.

    Returns:
        (n,)

    Raises:
        DamagedError: the training examples have one class only.
    """
    labels = np.array([example.label for example in training])
    if len(set(labels.tolist())) < 2:
        raise DamagedError("the linear baseline needs training examples of at least two classes")
    if task.num_texts > 1:
        fit, asked = _pair_features(task.language, training, examples)
        model: Any = LogisticRegression(C=3.0, max_iter=1000, random_state=SEED)
    else:
        vectors = _vectors(task.language)
        fit = vectors.fit_transform([example.text_a for example in training])
        asked = vectors.transform([example.text_a for example in examples])
        model = LinearSVC(C=0.3, random_state=SEED)
    if task.is_regression:
        return np.asarray(Ridge(random_state=SEED).fit(fit, labels).predict(asked), dtype=float)
    return np.asarray(model.fit(fit, labels).predict(asked), dtype=np.int64)


def _vectors(language: Language) -> Any:
    """TF-IDF of characters for Chinese, of words and of characters within words for English."""
    if language == "zh":
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    return make_union(
        words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True)
    )


def _pair_features(
    language: Language, training: Sequence[Example], examples: Sequence[Example]
) -> tuple[Any, Any]:
    vectors = _vectors(language)
    vectors.fit([text for example in training for text in (example.text_a, example.text_b or "")])

    def features(pairs: Sequence[Example]) -> Any:
        a = normalize(vectors.transform([pair.text_a for pair in pairs]))  # (n, grams)
        b = normalize(vectors.transform([pair.text_b or "" for pair in pairs]))
        shared = a.multiply(b).tocsr()
        cosine = np.asarray(shared.sum(axis=1))  # (n, 1)
        lengths = np.array([[len(pair.text_a), len(pair.text_b or "")] for pair in pairs], dtype=float)
        spread = np.abs(np.log(lengths[:, :1]) - np.log(np.maximum(lengths[:, 1:], 1)))
        overlap = np.array([[_overlap(pair, language)] for pair in pairs])
        whole = np.hstack([cosine, cosine**2, overlap, overlap**2, spread])
        return sp.hstack([abs(a - b), shared, sp.csr_matrix(whole)]).tocsr()

    return features(training), features(examples)


def _overlap(pair: Example, language: Language) -> float:
    """The Jaccard similarity of the texts' words (Chinese: characters): |A and B| / |A or B|."""
    a, b = (
        set(text if language == "zh" else text.lower().split()) for text in (pair.text_a, pair.text_b or "")
    )
    return len(a & b) / max(len(a | b), 1)
