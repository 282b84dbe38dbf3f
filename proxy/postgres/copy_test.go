package postgres_test

import (
	"strings"
	"testing"
)

// COPY turns the protocol round: the client sends and the server listens, and what it ignores meanwhile depends on who began
// it (traps 29 and 35).
func TestCopyIsAsWithTheServer(t *testing.T) {
	const in = "COPY copied FROM STDIN"
	extended := func(sql string) []frontend { return []frontend{parse("", sql), bind("", ""), execute("", 0)} }
	also := func(list []frontend, more ...frontend) []frontend { return append(list[:len(list):len(list)], more...) }
	count := ready(1, query("SELECT count(*), sum(v) FROM copied"))
	batch := ready(1, also(extended("SELECT count(*) FROM copied"), synchronize)...)
	tests := map[string][]exchange{
		"in":                               {flushed(1, 'G', query(in)), sent(data("1\n"), data("2\n")), ready(1, copyDone), count},
		"in, in a transaction":             {ready(1, query("BEGIN")), flushed(1, 'G', query(in)), ready(1, data("1\n"), copyDone), count, ready(1, query("ROLLBACK")), count},
		"in, in one write":                 {ready(1, query(in), data("1\n2\n3\n"), copyDone), count},
		"in, with more behind it":          {ready(3, query(in), data("1\n"), copyDone, query("SELECT 1"), query("SELECT 2")), count},
		"in, twice in one query":           {flushed(1, 'G', query(in+";"+in)), flushed(1, 'G', data("1\n"), copyDone), ready(1, data("2\n"), copyDone), count},
		"in, twice in one query and write": {ready(1, query(in+";"+in), data("1\n"), copyDone, data("2\n"), copyDone), count},
		"in, twice in one write":           {ready(2, query(in), data("1\n"), copyDone, query(in), data("2\n"), copyDone), count},
		"in, the second one later":         {flushed(2, 'G', query(in+";"+in), data("1\n"), copyDone), sent(data("2\n")), ready(1, copyDone), count},
		"in, byte by byte":                 {dripping(ready(1, query(in), data("1\n2\n"), copyDone)), count},
		"in, much":                         {flushed(1, 'G', query(in)), sent(repeat(30, data(strings.Repeat("123456789\n", 5000)))...), ready(1, copyDone), count},
		"in, nothing":                      {ready(1, query(in), copyDone), count},
		"in, rows in pieces":               {flushed(1, 'G', query(in)), sent(data("1"), data("2"), data("\n"), data("")), ready(1, copyDone), count},
		"in, failed by the client":         {flushed(1, 'G', query(in)), sent(data("1\n")), ready(1, copyFail), count},
		"in, failed by the client at once": {ready(1, query(in), data("1\n"), copyFail), count},
		"in, bad data":                     {flushed(1, 'G', query(in)), ready(1, data("1\n"), data("x\n")), count},
		"in, bad data with more behind":    {flushed(1, 'G', query(in)), ready(1, data("x\n"), data("2\n"), data("3\n"), copyDone), count},
		"in, bad data with more later":     {flushed(1, 'G', query(in)), ready(1, data("x\n")), sent(data("2\n"), copyDone), count},
		"in, bad data, failed later":       {flushed(1, 'G', query(in)), ready(1, data("x\n")), sent(data("2\n"), copyFail), count},
		"in, bad data, all in one write":   {ready(2, query(in), data("x\n"), data("2\n"), copyDone, query("SELECT 1")), count},
		"in, bad data, in a transaction":   {ready(1, query("BEGIN")), ready(1, query(in), data("x\n"), copyDone), count, ready(1, query("ROLLBACK")), count},
		"in, into nothing":                 {ready(1, query("COPY nothing FROM STDIN"), data("1\n"), copyDone), count, flushed(1, 'G', query(in)), sent(data("1\n")), ready(1, copyDone), count},
		"in, an end too many":              {ready(1, query(in), data("1\n"), copyDone, copyDone, copyFail), count, flushed(1, 'G', query(in)), sent(data("1\n")), ready(1, copyDone), count},
		"an end without a COPY":            {ready(2, query("SELECT 1"), copyDone, query(in), data("1\n"), copyDone), flushed(1, 'G', query(in)), sent(data("1\n")), ready(1, copyDone), count},
		"an end without a COPY, extended":  {ready(2, also(extended("SELECT 1"), copyDone, synchronize, query("SELECT 2"))...), flushed(1, 'G', query(in)), sent(data("1\n")), ready(1, copyDone), count},
		"in, syncs meanwhile":              {flushed(1, 'G', query(in)), sent(synchronize, data("1\n"), synchronize, flush), ready(1, copyDone), count, batch},
		"in, syncs meanwhile, one write":   {ready(1, query(in), synchronize, data("1\n"), synchronize, copyDone), count, batch},
		"in, syncs behind the end":         {ready(2, query(in), data("1\n"), copyDone, synchronize), count, batch},
		"in, extended":                     {flushed(1, 'G', also(extended(in), synchronize)...), sent(data("1\n")), ready(1, copyDone, synchronize), count, batch},
		"in, extended, flushed":            {flushed(1, 'G', also(extended(in), flush)...), flushed(1, 'C', data("1\n"), copyDone, flush), ready(1, synchronize), count, batch},
		"in, extended, in one write":       {ready(1, also(extended(in), data("1\n"), copyDone, synchronize)...), count, batch},
		"in, extended, syncs in between":   {ready(1, also(extended(in), synchronize, data("1\n"), synchronize, copyDone, synchronize)...), count, batch},
		"in, extended, with more behind":   {ready(2, also(also(extended(in), data("1\n"), copyDone, synchronize), batchOf("SELECT 2")...)...), count, batch},
		"in, extended, after another":      {ready(2, also(batchOf("SELECT 2"), also(extended(in), data("1\n"), copyDone, synchronize)...)...), count, batch},
		"in, extended, named": {
			ready(1, parse("s", in), synchronize), flushed(1, 'G', bind("", "s"), execute("", 0), synchronize), ready(1, data("1\n"), copyDone, synchronize),
			ready(1, bind("", "s"), execute("", 0), data("2\n"), copyDone, synchronize), count,
		},
		"in, extended, failed by the client": {flushed(1, 'G', also(extended(in), synchronize)...), ready(1, data("1\n"), copyFail, synchronize), count, batch},
		"in, extended, bad data":             {flushed(1, 'G', also(extended(in), synchronize)...), ready(1, data("x\n"), data("1\n"), copyDone, synchronize), count, batch},
		"in, extended, bad data, then more":  {flushed(1, 'G', also(extended(in), synchronize)...), flushed(1, 'E', data("x\n")), sent(data("1\n"), copyDone), ready(1, synchronize), count, batch},
		"in, extended, bad data, then a batch": {
			flushed(1, 'G', also(extended(in), synchronize)...), flushed(1, 'E', data("x\n")), sent(data("1\n"), copyDone),
			sent(extended("SELECT 1")...), ready(1, synchronize), count, batch,
		},
		"in, extended, bad data, one write":     {ready(1, also(extended(in), data("x\n"), copyDone, synchronize)...), count, batch},
		"in, extended, bad data, no end":        {flushed(1, 'G', also(extended(in), synchronize)...), ready(1, data("x\n"), synchronize), count, batch},
		"in, extended, into nothing":            {ready(1, also(extended("COPY nothing FROM STDIN"), data("1\n"), copyDone, synchronize)...), count, batch},
		"in, extended, into nothing, two syncs": {ready(2, also(extended("COPY nothing FROM STDIN"), synchronize, data("1\n"), copyDone, synchronize)...), count, batch},
		"out":                                   {ready(1, query("COPY (SELECT generate_series(1, 1000)) TO STDOUT"))},
		"out, much":                             {ready(1, query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 5000)) TO STDOUT"))},
		"out, in a transaction":                 {ready(1, query("BEGIN")), ready(1, query("COPY (SELECT 1) TO STDOUT")), ready(1, query("COMMIT"))},
		"out, twice":                            {ready(1, query("COPY (SELECT 1) TO STDOUT; COPY (SELECT 2) TO STDOUT"))},
		"out, failing":                          {ready(1, query("COPY (SELECT 1 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT")), count},
		"out, extended":                         {ready(1, also(extended("COPY (SELECT 1) TO STDOUT"), synchronize)...), batch},
		"out, extended, failing":                {ready(1, also(extended("COPY (SELECT 1 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT"), synchronize)...), batch},
		"out, then in":                          {ready(1, query("COPY (SELECT 1) TO STDOUT; "+in), data("1\n"), copyDone), count},
	}
	keeps := map[string]bool{ // a Sync that COPY ignores has no answer, and whether it has ignored it is not certain
		"in, syncs meanwhile": true, "in, syncs meanwhile, one write": true, "in, extended, syncs in between": true, "in, extended, bad data, no end": true,
	}
	all := make(map[string]scenario)
	for name, script := range tests {
		all[name] = scenario{keeps: keeps[name], setup: []string{"DROP TABLE IF EXISTS copied", "CREATE TABLE copied (v bigint)"}, script: script}
	}
	compare(t, all)
}

// batchOf is a whole batch.
func batchOf(sql string) []frontend {
	return []frontend{parse("", sql), bind("", ""), execute("", 0), synchronize}
}
