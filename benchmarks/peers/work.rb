# The Ruby worker: gem install faktory_worker_ruby
# Use the path of the gem's command, because our command has the same name.
# /path/of/gems/bin/faktory-worker -r work.rb -q QUEUE -c CONCURRENCY
require "logger"

Faktory.logger.level = Logger::ERROR

class Empty
  include Faktory::Job

  def perform
  end
end
