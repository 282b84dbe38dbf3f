// Command bench measures weir beside PgBouncer and a direct connection, in turns, in one run.
//
//	go run ./internal/bench                      # every part, about twenty minutes
//	go run ./internal/bench -quick               # the same with fewer and shorter rounds
//	go run ./internal/bench -only relay,login    # some parts
//	go run ./internal/bench -write docs/benchmarks.md
//	go run ./internal/bench -only overload       # useful work at ten times the load, alone, about twelve minutes
//
// It brings everything it needs: a throwaway PostgreSQL, PgBouncer processes, weir built from this module, keys and
// certificates, all on free loopback ports and in a temporary directory, and it takes all of it down again, also after
// Ctrl-C. scripts/setup bench installs the packages.
//
// How it keeps figures comparable on a machine that the load, the proxies and PostgreSQL share:
//
//   - The sides take turns within a round, and the order rotates from round to round. A ratio is the median of the
//     rounds' ratios, so that a slow minute of the machine hits both terms.
//   - CPU is the scheduler's own account of the proxy process (user and kernel), read at a fixed offered rate: at full
//     speed a slower proxy waits for the processor, finds its work in bigger batches, and so looks cheaper.
//   - Throughput is read without a rate.
//   - A second PgBouncer with the same configuration runs as a side of its own. Its ratio to the first ought to be 1;
//     how far it is off is what this run cannot tell apart, and the report prints it as the noise floor.
//
// Overload (overload.go) is another matter: storms of functions from package storm, in this process, with PostgreSQL on one
// processor and all else on another.
//
// The program runs itself as "bench client ..." to generate load that pgbench cannot: many idle connections, logins
// over TLS, and queries whose latency is recorded one by one.
package main
