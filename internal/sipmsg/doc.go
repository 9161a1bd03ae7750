// Package sipmsg reads a SIP message as the bytes that were received and
// forwards those bytes with a few edits.
//
// A forwarder that parses a message and prints it again changes order, case,
// quoting, folding and everything that it does not know. This package never
// prints. [Message.Parse] records where things are ([Span]s into the received
// bytes), the edit methods record what is to differ, and [Message.AppendTo]
// copies the received bytes with those differences and nothing else. Without
// edits the output is the input, byte for byte.
//
// Parsing is lenient: what a forwarder need not understand is not looked at.
// It accepts compact and unknown header names in any case, folded lines, white
// space wherever RFC 3261 section 25.1 allows it, lines that end in a bare LF,
// quoted strings with commas and brackets inside, several values on a line or
// on several lines, and bytes that are not UTF-8. It is strict only where two
// readers of one message could differ about where it ends or to which call it
// belongs: framing, and the headers that may be there but once.
//
// The package is pure: it knows no socket, clock, goroutine or logger. With a
// reused [Message] and destination, parsing, reading, editing and appending
// allocate nothing.
package sipmsg
