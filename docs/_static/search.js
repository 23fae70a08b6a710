/* The search's scores, as Sphinx has them, but for an error text that somebody pastes: of the pages
   that have all its words, the one that explains errors comes first. */
const errorPages = { errors: 30, failures: 20 };

var Scorer = {
  score: ([page, , , , score]) => {
    const query = new URLSearchParams(window.location.search).get("q") ?? "";
    return query.trim().split(/\s+/).length > 3 ? score + (errorPages[page] ?? 0) : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
