"""The numbers of a GGUF file, which its reader and its writer share."""

MAGIC = b"GGUF"
TEXT, LIST = 8, 9
# enum gguf_type, as struct writes them
NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
MOST_AXES = 4  # GGML_MAX_DIMS
DEEPEST = 4  # lists in lists
ALIGNMENT = "general.alignment"
