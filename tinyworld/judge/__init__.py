"""The judge: reads from a picture what it shows, and measures it against what was asked.

It learned from the renderer's own pictures (`recipe.judge`) and took no part in training the
diffusion model; it never saw a held-out member.

    words.py     what it can say of an object, and the truth about a drawn one
    networks.py  finder (picture -> masks, background) and describer (crop -> embedding, words)
    judge.py     Judge: picture -> objects; references to compare with
    lineup.py    sixteen members of one class, one of which is the right one
    scores.py    identity, leak, mixing, layout, novelty
    named.py     verdicts on pictures that ask for held-out members by name, or for an ornament
"""
