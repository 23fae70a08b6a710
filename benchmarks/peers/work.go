// The Go worker: go get github.com/contribsys/faktory_worker_go
// work QUEUE CONCURRENCY
package main

import (
	"context"
	"os"
	"strconv"

	worker "github.com/contribsys/faktory_worker_go"
)

// silent discards all logs, so that only the work is measured.
type silent struct{}

func (silent) Debug(...any)          {}
func (silent) Debugf(string, ...any) {}
func (silent) Info(...any)           {}
func (silent) Infof(string, ...any)  {}
func (silent) Warn(...any)           {}
func (silent) Warnf(string, ...any)  {}
func (silent) Error(...any)          {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatal(...any)          { os.Exit(1) }
func (silent) Fatalf(string, ...any) { os.Exit(1) }

func main() {
	concurrency, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	manager := worker.NewManager()
	manager.Logger = silent{}
	manager.Register("Empty", func(context.Context, ...any) error { return nil })
	manager.Concurrency = concurrency
	manager.ProcessStrictPriorityQueues(os.Args[1])
	manager.Run()
}
