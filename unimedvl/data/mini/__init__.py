"""UniMed-Mini: a small real data set from public images that Python packages ship, built without a download.

Six of the paper's eight modalities: no package ships optical coherence tomography or endoscopy. Here are its sources
(``views``, ``edits``) and its words (``dialogues``, ``wordings.yaml``); the rest is what curation does with any source.
"""
