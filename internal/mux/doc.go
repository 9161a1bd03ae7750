// Package mux is the tunnel's connection.
package mux
