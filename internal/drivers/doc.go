// Package drivers runs real drivers against PostgreSQL twice, straight and through weir, and compares what they saw.
//
// A driver is exercised by one small program: in this package for those written in Go and for psql, in gorm/, node/,
// python/ and java/ for the rest. A program takes its server from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE, and the
// features to leave out as arguments. It prints a transcript: one JSON object a line, {"feature", "step", "saw"}, of
// rows, types, tags, SQLSTATEs and notices, and nothing that two servers or two runs may legitimately differ in (process
// ids, ports, times). A feature that fails where it should not prints a line whose step is "threw"; the others still run.
// The first line of a program is {"driver", "version"}.
//
// To add a feature, add a function to a program; to add a driver, add a program and a row in the table of drivers. The
// result is docs/drivers.md, written by
//
//	go test ./internal/drivers -run TestDrivers -update
package drivers
