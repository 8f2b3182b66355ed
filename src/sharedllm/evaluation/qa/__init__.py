"""Questions about long texts, put to a memory and to the strongest simple rivals, with a checkpoint as people have them."""
