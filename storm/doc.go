// Package storm lets a storm of functions loose on a PostgreSQL database and measures what becomes of them: straight,
// through weir, or through any other pooler.
//
// A function is a small program of a platform that starts as many of them as there are requests. It connects, or borrows a
// connection that is still warm, runs a transaction or a few, and is gone; after its deadline it is gone anyway. Nobody
// slows down because the database does, so the load is open: when each function starts is computed ahead from a seed, and
// its latency counts from that moment, whether or not the generator or a connection was ready for it.
//
// The files are the way of a function:
//
//	plan.go       what the storm is to be like: load, callers, connections, deadline, retries
//	settings.go   the same as text: flags, --caller, and plan files (file.go)
//	load.go       when functions start (arrivals.go)
//	script.go     what a function asks of the database
//	run.go        the storm: opening, the schedule, the end
//	line.go       functions that wait for a connection
//	seat.go       a connection and the functions that use it, one after another
//	conn.go       just enough of the protocol to log in and to run statements
//	verdict.go    what an error means to a function: refused, worth a retry, hopeless
//	tally.go      what is counted (histogram.go)
//	result.go     what came of it, for programs; text.go and html.go, for people
//
// A generator that lacks processor time measures itself. How far it fell behind its own schedule is part of each result;
// see Generator.
package storm
