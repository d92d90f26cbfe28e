"""Patient's Name (0010,0010) and Specific Character Set (0008,0005), byte by byte.

    name.py give DONOR IMAGE OUT    copies both from DONOR into a copy of IMAGE
    name.py show FILE               prints both as JSON, raw (hex) and decoded
"""

import json
import sys

import pydicom

CHARACTER_SET, NAME = 0x00080005, 0x00100010

match sys.argv[1:]:
    case ["give", donor, image, out]:
        source = pydicom.dcmread(donor, defer_size=None)
        target = pydicom.dcmread(image)
        for tag in (CHARACTER_SET, NAME):
            target._dict[pydicom.tag.Tag(tag)] = source.get_item(tag)
        # pydicom writes raw values as they are only while it takes the encoding for the original one.
        target.set_original_encoding(False, True, source.original_character_set)
        target.save_as(out)
        copied = pydicom.dcmread(out)
        for tag in (CHARACTER_SET, NAME):
            assert copied.get_item(tag).value == source.get_item(tag).value, "the bytes have changed"
    case ["show", file]:
        dataset = pydicom.dcmread(file)
        raw = {tag: dataset.get_item(tag) for tag in (CHARACTER_SET, NAME)}
        hexes = {
            tag: item.value.hex() if isinstance(item.value, bytes) else None for tag, item in raw.items() if item
        }
        character_set = dataset.get("SpecificCharacterSet") or []
        name = dataset.PatientName
        print(
            json.dumps(
                {
                    "name_raw": hexes.get(NAME),
                    "character_set": [character_set] if isinstance(character_set, str) else list(character_set),
                    "groups": [str(group) for group in (name.alphabetic, name.ideographic, name.phonetic) if group],
                }
            )
        )
    case _:
        sys.exit(__doc__)
