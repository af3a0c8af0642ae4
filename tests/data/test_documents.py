"""A document's labels follow from its text and its key."""

from __future__ import annotations

from moecli.data.documents import Document, Span


def test_labels_of_a_whole_text():
    document = Document.labelled("four", "here", {"domain": "prose", "mood": "calm"})
    assert document.labels == {"domain": (Span(0, 4, "prose"),), "mood": (Span(0, 4, "calm"),)}


def test_the_key_tells_labels_apart_and_does_not_depend_on_their_order():
    one = Document.labelled("a", "here", {"x": "1", "y": "2"})
    assert one.label_key == Document.labelled("b", "there", {"y": "2", "x": "1"}).label_key
    assert one.label_key != Document.labelled("a", "here", {"x": "2", "y": "1"}).label_key


def test_labels_are_worked_out_only_when_asked_for():
    asked = []
    document = Document("text", "here", lambda text: asked.append(text) or {})
    assert asked == []
    assert document.labels == {}
    assert asked == ["text"]


def test_unlabelled_by_default():
    assert Document("text", "here").labels == {}
