"""How a hidden fact is asked for."""

LEAD, PLAIN, REWORDED, QUOTED = "lead", "plain", "reworded", "quoted"
FORMS = {
    LEAD: "the question, and the beginning of its answer in the fact's own words",
    PLAIN: "the question alone, as people ask",
    REWORDED: "a question that has only the key in common with the fact",
    QUOTED: "the question alone, and the text quotes it away from its fact",
}
