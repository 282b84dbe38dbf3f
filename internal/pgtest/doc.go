// Package pgtest is what tests need of PostgreSQL, on both sides of a proxy.
//
//   - A real server: Shared (one for all tests of a package) and Start (one of your own, to stop and to break).
//   - A fake server that plays a Script: stalls, lies, hangs up in the middle of a row, refuses.
//   - A raw Client that sends frames as they are and collects the answers in order, and Compare, which says whether a
//     server and a proxy in front of it gave the same answers.
//   - NoLeaks, which holds a test to leaving no goroutine and no file descriptor behind.
package pgtest
