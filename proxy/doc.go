// Package proxy is what all protocols share: the [Gate] that admits a transaction and takes back its outcome, the table of
// refusals, the listener and what is counted.
package proxy
