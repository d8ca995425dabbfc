// Answers every message with the same message.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	echo := func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Content-Type", request.Header.Get("Content-Type"))
		io.Copy(answer, request.Body)
	}
	address := "127.0.0.1:" + set("PORT", "3000")
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(echo)))
}

func set(variable, otherwise string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return otherwise
}
