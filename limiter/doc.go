// Package limiter decides whether a transaction may start now, later, or not at all.
//
// Its stations, in the order in which a transaction meets them:
//
//	caller.go       whose is it?
//	terms.go        what does the function say of itself: deadline, priority, name
//	fingerprint.go  which kind of statement is it?
//	bucket.go       may one more start this second? Token buckets: local.go for one process, leased.go for a fleet
//	slots.go        may one more run at once? If not, may it wait?
//	estimate.go     how long would that be? pace.go: as the line has moved
//	patience.go     for how long is it wanted?
//	flood.go        do more come than can be served, again and again?
//	bound.go        how long may it wait, after all that?
//	line.go         where it waits
//	flow.go         whose turn it is: priorities, and fairness by server time
//	class.go        how long such statements take
//	lane.go         how many of the long ones may run
//	window.go       what is seen of all that in a quarter of a second
//	adaptive.go     how many may run at once; trial.go: would another number be better?
//
// Neither buckets nor slots ever block: what may not start at once waits in a queue, and is told, or is refused with the time
// to come back.
package limiter
